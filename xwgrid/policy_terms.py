"""What a job may ask of the checking of its results, and in which bounds; what the server makes of it at the door."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, assert_never

from msgspec import structs

from xwgrid.errors import BadInput, Forbidden
from xwgrid.model import Audit, Boinc, Credibility, Fixed, Instant, JobRequest, Policy, Seconds
from xwgrid.policies import LEAST_QUORUM

# As in `xwgrid.model`, which checks what comes over the wire.
LEAST_SHARE: Final = 0.001
LONGEST_NOTE: Final = 200
FARTHEST_DEADLINE: Final[Seconds] = 10 * 365 * 86_400.0


def settled(request: JobRequest, default: Policy, allowed: Collection[str], why_not_in_parts: str | None) -> JobRequest:
    """Return a job with its policy written in, and a note where that is neither the one asked for nor the default.

    `allowed` names the policies that jobs may choose; `why_not_in_parts` says why this one cannot be rendered in parts,
    None when it can. A job that asks for no policy gets `default`; but a private one, whose hosts earn no standing, and
    one for which a single result is enough, are replicated.

    Raises Forbidden for a policy that is not allowed, BadInput for numbers out of bounds and a note that came along.
    """
    if request.policy_note:
        raise BadInput("policy_note is the server's word on a job's policy: leave it out")
    asked = request.policy
    if asked is None and (request.private or request.quorum == 1):
        # A private job has no other choice, so that it is not asked whether there is one.
        asked = Fixed()
    if asked is not None and name_of(asked) not in allowed and not (request.private and request.policy is None):
        names = ", ".join(sorted(allowed))
        raise Forbidden(
            f"this server lets no job be checked by the policy '{name_of(asked)}': it allows {names}",
            policy=name_of(asked),
            allowed=sorted(allowed),
        )
    policy = check_policy(default if asked is None else asked)
    if isinstance(policy, Audit) and why_not_in_parts is not None:
        note = f"replicated instead of audited: {why_not_in_parts}"[:LONGEST_NOTE]
        # Whoever wants results checked gets them checked.
        quorum = max(LEAST_QUORUM, request.quorum)
        replicas = max(quorum, request.replicas)
        return structs.replace(request, policy=Fixed(), policy_note=note, replicas=replicas, quorum=quorum)
    return structs.replace(request, policy=policy)


def name_of(policy: Policy) -> str:
    """Return a policy's name, the `by` of its message."""
    return str(policy.__struct_config__.tag)


def check_policy(policy: Policy) -> Policy:
    """Return a policy. Raises BadInput when a number of it is out of bounds."""
    match policy:
        case Audit(epsilon=epsilon, share=share):
            check_epsilon(epsilon)
            check_share(share)
        case Credibility(epsilon=epsilon):
            check_epsilon(epsilon)
        case Fixed() | Boinc():
            pass
        case _:
            assert_never(policy)
    return policy


def check_epsilon(epsilon: float) -> float:
    """Return `epsilon`. Raises BadInput unless it is above 0 and at most 0.5."""
    if not 0 < epsilon <= 0.5:  # not-a-number is neither
        raise BadInput(f"epsilon {epsilon} is no chance to put up with: it must be above 0 and at most 0.5, say 0.001")
    return epsilon


def check_share(share: float) -> float:
    """Return the least share of a frame that matters. Raises BadInput unless it is 0.001 to 1."""
    if not LEAST_SHARE <= share <= 1:
        raise BadInput(f"share {share} is no part of a frame to look for: it must be {LEAST_SHARE} to 1, say 0.05")
    return share


def check_deadline(deadline: Instant, now: Instant) -> Instant:
    """Return `deadline`. Raises BadInput unless it lies in the next ten years."""
    if not now < deadline <= now + FARTHEST_DEADLINE:  # not-a-number does not
        when = "past" if deadline <= now else "more than ten years away"
        raise BadInput(f"the deadline is {when}: choose another, or none", deadline=deadline)
    return deadline


def described(policy: Policy, quorum: int) -> str:
    """Return, in a few words, how a job's results are checked."""
    match policy:
        case Fixed():
            return f"fixed replication, {quorum} equal results" if quorum > 1 else "no checks, one result is enough"
        case Credibility(epsilon=epsilon):
            return f"credibility, epsilon {epsilon:g}"
        case Audit(epsilon=epsilon, share=share):
            return f"audits, epsilon {epsilon:g}, share {share:g}"
        case Boinc(trusted_after=trusted_after):
            return f"BOINC's rule, trusted after {trusted_after}"
    assert_never(policy)
