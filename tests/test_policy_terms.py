"""Which policy a job is checked by, as the server writes it into the job when it comes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from xwgrid.errors import BadInput, Forbidden
from xwgrid.model import Audit, Boinc, Count, Credibility, DigestWork, Fixed, JobRequest, Policy
from xwgrid.policies import quorum_of
from xwgrid.policy_terms import described, settled

BARE = JobRequest(name="chains", work=DigestWork(), split=Count(count=1))
DEFAULT = Audit(epsilon=0.01)
ALL = ("fixed", "credibility", "audit")
NOT = "its results are values"


def test_a_job_that_asks_for_nothing_gets_the_servers_default() -> None:
    """The default stands in the job from then on, without a note, and nothing else of it changes."""
    assert settled(BARE, DEFAULT, ALL, None) == replace(BARE, policy=DEFAULT)


@pytest.mark.parametrize("policy", [Fixed(), Credibility(epsilon=0.5), Audit(epsilon=1e-9, share=1)])
def test_what_is_asked_for_is_given(policy: Policy) -> None:
    """A policy that the server allows is the job's, without a note."""
    assert settled(replace(BARE, policy=policy), DEFAULT, ALL, None) == replace(BARE, policy=policy)


def test_private_jobs_and_single_results_are_replicated() -> None:
    """Whoever says that one result is enough gets one; private jobs go by votes, unless they ask for more."""
    for request in (replace(BARE, replicas=1, quorum=1), replace(BARE, private=True)):
        assert settled(request, DEFAULT, ALL, NOT) == replace(request, policy=Fixed())
    audited = replace(BARE, private=True, policy=Audit())
    assert settled(audited, DEFAULT, ALL, None) == audited


def test_an_audit_that_cannot_be_is_a_replication_that_says_why() -> None:
    """A job that cannot be rendered in parts is voted on; the note has the reason."""
    for policy in (None, Audit()):
        given = settled(replace(BARE, policy=policy, replicas=3), DEFAULT, ALL, NOT)
        assert given == replace(
            BARE, policy=Fixed(), replicas=3, policy_note="replicated instead of audited: its results are values"
        )
    assert settled(replace(BARE, policy=Credibility()), DEFAULT, ALL, NOT).policy == Credibility()


def test_who_asks_for_checks_is_never_left_without() -> None:
    """An audit of a job that says one result is enough becomes a vote of two, not an unchecked result."""
    given = settled(replace(BARE, policy=Audit(), replicas=1, quorum=1), DEFAULT, ALL, NOT)
    assert (given.replicas, given.quorum) == (2, 2)


def test_a_policy_the_operator_does_not_allow_is_refused() -> None:
    """The refusal names it, and those that may be chosen; one result without a check is the policy 'fixed'."""
    for request in (replace(BARE, policy=Fixed()), replace(BARE, replicas=1, quorum=1)):
        with pytest.raises(Forbidden, match=r"'fixed': it allows audit, credibility"):
            settled(request, DEFAULT, ("credibility", "audit"), None)
    with pytest.raises(Forbidden, match=r"'boinc': it allows audit, credibility, fixed"):
        settled(replace(BARE, policy=Boinc()), DEFAULT, ALL, None)


def test_what_must_be_replicated_is_so_whatever_is_allowed() -> None:
    """A private job, and one that cannot be audited, have no other choice, so that they are not refused."""
    assert settled(replace(BARE, private=True), DEFAULT, ("audit",), None).policy == Fixed()
    assert settled(BARE, DEFAULT, ("audit",), NOT).policy == Fixed()


def test_nobody_brings_the_servers_note_along() -> None:
    """A client that writes the server's word is refused."""
    with pytest.raises(BadInput, match="leave it out"):
        settled(replace(BARE, policy_note="audited, I swear"), DEFAULT, ALL, None)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 0.500001, 1e308, float("nan"), float("inf"), float("-inf")])
def test_an_epsilon_that_is_none_is_refused(epsilon: float) -> None:
    """Zero, more than one half, not a number: whatever road it came by, it does not get in."""
    for policy in (Audit(epsilon=epsilon), Credibility(epsilon=epsilon)):
        with pytest.raises(BadInput, match=r"must be above 0 and at most 0\.5"):
            settled(replace(BARE, policy=policy), DEFAULT, ALL, None)


@pytest.mark.parametrize("share", [0.0, 0.0009, -1.0, 1.1, float("nan"), float("inf")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    """A part of a frame is a thousandth to all of it."""
    with pytest.raises(BadInput, match=r"0\.001 to 1"):
        settled(replace(BARE, policy=Audit(share=share)), DEFAULT, ALL, None)


requests = st.builds(
    lambda policy, private, quorum, more: replace(
        BARE, policy=policy, private=private, quorum=quorum, replicas=quorum + more
    ),
    st.one_of(st.none(), st.sampled_from([Fixed(), Credibility(), Audit(), Boinc()])),
    st.booleans(),
    st.integers(1, 8),
    st.integers(0, 8),
)


@given(requests, st.sampled_from([Fixed(), Credibility(), Audit()]), st.one_of(st.none(), st.text()))
def test_a_settled_job_is_settled(request: JobRequest, default: Policy, reason: str | None) -> None:
    """What comes in has a policy, allowed or the only one that is possible, and enough replicas for its quorum."""
    try:
        given = settled(request, default, ALL, reason)
    except Forbidden:
        assert request.policy == Boinc()
        return
    assert given.policy is not None
    assert given.replicas >= given.quorum
    assert not (isinstance(given.policy, Audit) and reason is not None)
    assert len(given.policy_note) <= 200
    assert not given.policy_note or (given.policy == Fixed() and reason is not None)
    if request.policy is not None:
        assert quorum_of(given) >= quorum_of(request) or isinstance(request.policy, Fixed)


def test_policies_are_described_in_a_few_words() -> None:
    """Numbers are written as people write them."""
    assert described(Audit(), 2) == "audits, epsilon 0.001, share 0.05"
    assert described(Credibility(epsilon=0.01), 2) == "credibility, epsilon 0.01"
    assert described(Fixed(), 3) == "fixed replication, 3 equal results"
    assert described(Fixed(), 1) == "no checks, one result is enough"
