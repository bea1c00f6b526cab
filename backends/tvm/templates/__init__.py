"""Expert schedules: each matches a Task or says why it does not. The first that matches wins."""

from __future__ import annotations

from optc.backends.tvm.templates.plan import Miss, Plan, Problem, Template

# Ordered from the most particular to the one that takes everything.
TEMPLATES: tuple[Template, ...] = ()


def match(problem: Problem) -> tuple[Plan, tuple[tuple[str, Miss], ...]]:
    """The plan of the first template that takes the task, and why those before it did not.

    Raises LookupError when none does, which the generic template rules out for lowerable ops.
    """
    misses: list[tuple[str, Miss]] = []
    for template in TEMPLATES:
        answer = template.match(problem)
        if not isinstance(answer, Miss):
            return answer, tuple(misses)
        misses.append((template.name, answer))
    reasons = "; ".join(f"{name}: {miss.reason}" for name, miss in misses)
    raise LookupError(f"no template takes task {problem.body.name} ({reasons})")
