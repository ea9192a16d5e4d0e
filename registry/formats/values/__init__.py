"""Plain values: their canonical form, what differs between two, which items are the same ones, patches."""
