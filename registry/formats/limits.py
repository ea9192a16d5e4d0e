"""Bounds of reading and comparing, beside the ones in `registry.core.limits`. Past one: an error or a counted cut."""

NUMBER_CHARS = 400  # of one number in YAML
WARNINGS = 20  # of one inspection
CHANGES = 2000  # listed in one comparison; the rest is counted in `omitted`
CHANGES_CHARS = 1_000_000  # in all of them together
EDGE_CHARS = 600  # one edge counts as so many of them
VALUE_CHARS = 400  # of one shown string
STRUCTURE_CHARS = 2000  # of one shown list or mapping, as JSON
DIFF_LINES = 80  # of one changed text
DIFF_LINE_CHARS = 300
DIFF_CONTEXT_LINES = 2
ALIGN_WORK = 4_000_000  # steps spent on aligning two lists; what is left then counts as replaced
KEY_CHARS = 120  # of one name or key that is shown
NODE_ID_CHARS = 200  # a node with a longer id is not taken for one
EXCERPT_LEAD_CHARS = 60  # shown before the first difference of two long strings
SUMMARY_NAMES = 2  # named in the summary before "and 3 more"
