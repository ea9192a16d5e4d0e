from __future__ import annotations

import pytest

from registry.server.inspect_worker import Answer, Job, JudgeJob, Prepared
from registry.server.inspector import Inspector

CONTENT = b"hunter2-hunter2"


class Confused(Inspector):
    """Its worker answers another question."""

    async def _run(self, job: Job) -> Answer:
        return Prepared(inspection=None, content=CONTENT, secrets={})  # type: ignore[arg-type]


async def test_an_answer_to_another_question_is_a_defect_and_its_content_stays_out_of_the_log() -> None:
    with pytest.raises(TypeError, match="Prepared") as caught:
        await Confused().judge(JudgeJob(CONTENT, "json"))
    assert CONTENT.decode() not in str(caught.value)
