"""The job database. Each table says what one row is; invariants are keys and checks.

Instants are seconds since 1970-01-01 UTC (double precision). States are the words of `xwgrid.model`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts up by itself only in INTEGER columns; PostgreSQL's are to be 64 bits wide.
_Id = BigInteger().with_variant(Integer(), "sqlite")
# Digests are compared byte by byte and never sorted for people.
_Digest = String(64)

# A replica that may still lead to a ballot, or has one in the box: at most one of these per task and voter.
LIVE_OR_VOTING = text("state IN ('leased', 'reading', 'voting', 'agreed', 'outvoted')")

users = Table(
    "users",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("role", String(20), nullable=False, server_default="requester"),
    Column("created_at", Double, nullable=False),
    CheckConstraint("role IN ('requester', 'operator')", name="role"),
    comment="A person: hands in jobs, owns hosts, or both.",
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("kind", String(20), nullable=False),
    Column("digest", _Digest, nullable=False, unique=True, comment="SHA-256 of the token's text"),
    Column("note", String(200), nullable=False, server_default=""),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("used_at", Double, comment="enrolment tokens: when, and then never again"),
    Column("revoked_at", Double),
    CheckConstraint("kind IN ('enrol', 'requester')", name="kind"),
    comment="A secret that was handed out, by its hash.",
)

hosts = Table(
    "hosts",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("owner_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("name", String(200), nullable=False),
    Column("state", String(20), nullable=False, server_default="active"),
    Column("state_reason", Text, nullable=False, server_default=""),
    Column("enrolled_at", Double, nullable=False),
    Column("last_seen_at", Double, comment="written at most once a minute"),
    Column("facts", Text, comment="JSON of xwgrid.model.HostFacts, as the host says"),
    CheckConstraint("state IN ('active', 'banned')", name="state"),
    comment="A volunteer's machine.",
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(50), primary_key=True, comment="hexadecimal"),
    Column("host_id", ForeignKey("hosts.id"), nullable=False, index=True),
    Column("issued_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("revoked_at", Double),
    comment="A client certificate the server's CA issued to a host.",
)

applications = Table(
    "applications",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("application", String(200), nullable=False),
    Column("version", String(200), nullable=False),
    Column("signed", Text, nullable=False, comment="JSON of xwgrid.model.SignedManifest"),
    Column("published_at", Double, nullable=False),
    Column("revoked_at", Double),
    UniqueConstraint("application", "version"),
    comment="A signed application version; new jobs take the newest that is not revoked.",
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", _Digest, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    CheckConstraint("size >= 0", name="size"),
    comment="Bytes the server holds on disk, complete and checked, named by their SHA-256.",
)

blob_grants = Table(
    "blob_grants",
    metadata,
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("digest", ForeignKey("blobs.digest"), primary_key=True),
    comment="This user sent these bytes, so may read them and need not send them again.",
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("owner_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("name", String(200), nullable=False),
    Column("application", String(200), nullable=False),
    Column("spec", ForeignKey("blobs.digest"), nullable=False, comment="the JobSpec document"),
    Column("request", Text, nullable=False, comment="JSON of xwgrid.model.JobRequest without its inputs"),
    Column("state", String(20), nullable=False),
    Column("private", Boolean, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("tasks", Integer, nullable=False),
    Column("agreed", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("leased", Integer, nullable=False, server_default="0", comment="leases given out so far"),
    Column("outvoted", Integer, nullable=False, server_default="0"),
    Column("lost", Integer, nullable=False, server_default="0"),
    Column("timed", Integer, nullable=False, server_default="0", comment="results that came with their time"),
    Column("seconds", Double, nullable=False, server_default="0", comment="the sum of those times"),
    Column("created_at", Double, nullable=False),
    Column("finished_at", Double),
    CheckConstraint("state IN ('entering', 'open', 'finished', 'incomplete', 'cancelled')", name="state"),
    CheckConstraint("agreed + failed <= tasks", name="counts"),
    Index(
        "ix_jobs_unfinished",
        "id",
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
    comment="What a requester handed in.",
)

job_blobs = Table(
    "job_blobs",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("digest", ForeignKey("blobs.digest"), primary_key=True),
    comment="A blob that whoever holds a lease of the job may read: inputs, application files, the specification.",
)

tasks = Table(
    "tasks",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False, comment="0 … jobs.tasks - 1"),
    Column("state", String(20), nullable=False, server_default="open"),
    Column("wanted", Integer, nullable=False, comment="replicas that may be claimed now"),
    Column("made", Integer, nullable=False, server_default="0", comment="replicas claimed so far"),
    Column("result_class", String(200), comment="pinned by the first replica while ballots are outstanding"),
    Column("canonical_replica", BigInteger, comment="the replica whose result was accepted"),
    Column("reason", Text, nullable=False, server_default="", comment="why it failed, or waits"),
    Column("audits", Text, nullable=False, server_default="[]", comment="JSON of AuditOrder: wanted, and not taken"),
    Column("undrawn", Integer, nullable=False, server_default="0", comment="checks that went to whoever asked"),
    Column("accepted_before", BigInteger, comment="the replica whose result was accepted until it was audited again"),
    CheckConstraint("state IN ('open', 'agreed', 'failed', 'cancelled')", name="state"),
    CheckConstraint("wanted >= 0", name="wanted"),
    CheckConstraint("(state = 'agreed') = (canonical_replica IS NOT NULL)", name="canonical"),
    Index("ix_tasks_ready", "job_id", "number", sqlite_where=text("wanted > 0"), postgresql_where=text("wanted > 0")),
    comment="One unit of a job. What it is to do follows from the job's split and its number.",
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False),
    Column("job_id", BigInteger, nullable=False),
    Column("task", Integer, nullable=False),
    Column("number", Integer, nullable=False, comment="0, 1, … within the task"),
    Column("host_id", ForeignKey("hosts.id"), nullable=False),
    Column("voter", BigInteger, nullable=False, comment="the host's owner, or in a private job minus the host's id"),
    Column("state", String(20), nullable=False),
    Column("acknowledged_call", BigInteger, comment="the call in which the host first listed this lease"),
    Column("result_class", String(200), nullable=False, server_default=""),
    Column("leased_at", Double, nullable=False),
    Column("next_transition", Double, comment="leased: when the lease runs out"),
    Column("ended_at", Double),
    Column("seconds", Double),
    Column("cause", String(20)),
    Column("message", Text, nullable=False, server_default=""),
    Column("log_tail", Text, nullable=False, server_default=""),
    Column("fingerprint", _Digest, comment="the ballot: the server's own reading of the result"),
    Column("claimed_fingerprint", _Digest, comment="the volunteer's reading of it"),
    Column("value", String(1024)),
    Column("files", Text, nullable=False, server_default="[]", comment="JSON of ResultFile"),
    Column("audits", BigInteger, comment="the replica whose result it looks at; NULL: it is a full one"),
    Column("strips", Text, comment="of an audit: the rows it looks at, such as 12+2,90+2"),
    Column("differences", Text, comment="JSON: replica it was compared with, share of rows that differ"),
    Column("credit", Double, nullable=False, server_default="0", comment="device-seconds given for it"),
    Column("is_test", Boolean, nullable=False, server_default=text("false"), comment="of a task decided before"),
    UniqueConstraint("job_id", "task", "number"),
    CheckConstraint(
        "state IN ('leased', 'reading', 'voting', 'agreed', 'outvoted', 'failed', 'handed_back', 'lost', 'cancelled')",
        name="state",
    ),
    Index(
        "uq_replicas_one_vote_per_voter",
        "job_id",
        "task",
        "voter",
        unique=True,
        sqlite_where=text(f"{LIVE_OR_VOTING.text} AND audits IS NULL"),
        postgresql_where=text(f"{LIVE_OR_VOTING.text} AND audits IS NULL"),
    ),
    Index(
        "uq_replicas_one_audit_per_voter",
        "job_id",
        "task",
        "voter",
        unique=True,
        sqlite_where=text(f"{LIVE_OR_VOTING.text} AND audits IS NOT NULL"),
        postgresql_where=text(f"{LIVE_OR_VOTING.text} AND audits IS NOT NULL"),
    ),
    Index(
        "ix_replicas_live_by_job",
        "job_id",
        sqlite_where=text("state = 'leased'"),
        postgresql_where=text("state = 'leased'"),
    ),
    Index(
        "ix_replicas_live_by_host",
        "host_id",
        sqlite_where=text("state = 'leased'"),
        postgresql_where=text("state = 'leased'"),
    ),
    Index(
        "ix_replicas_next_transition",
        "next_transition",
        sqlite_where=text("state = 'leased'"),
        postgresql_where=text("state = 'leased'"),
    ),
    Index(
        "ix_replicas_reading", "id", sqlite_where=text("state = 'reading'"), postgresql_where=text("state = 'reading'")
    ),
    comment="One attempt at a task by one host, under a lease. A row is inserted by its claim.",
)

replica_blobs = Table(
    "replica_blobs",
    metadata,
    Column("replica_id", BigInteger, primary_key=True),
    Column("digest", ForeignKey("blobs.digest"), primary_key=True),
    Column("job_id", BigInteger, nullable=False),
    Index("ix_replica_blobs_digest", "digest"),
    comment="A blob that is part of a replica's result; the job's owner may read it.",
)

standings = Table(
    "standings",
    metadata,
    Column("host_id", ForeignKey("hosts.id"), primary_key=True, autoincrement=False),
    Column("earned", Text, nullable=False, server_default="{}", comment="JSON: requester, units counted"),
    Column("proven", Boolean, nullable=False, server_default=text("false")),
    Column("valid", Integer, nullable=False, server_default="0"),
    Column("wrong", Integer, nullable=False, server_default="0"),
    Column("streak", Integer, nullable=False, server_default="0"),
    Column("on_record", Integer, nullable=False, server_default="0"),
    Column("since_wrong", Double, nullable=False, server_default="0"),
    Column("suspected_until", Double),
    Column("quarantined_until", Double),
    Column("quarantines", Integer, nullable=False, server_default="0"),
    Column("vouched", Boolean, nullable=False, server_default=text("false")),
    Column("tested", Boolean, nullable=False, server_default=text("false")),
    Column("audit_again", Boolean, nullable=False, server_default=text("false")),
    Column("reason", Text, nullable=False, server_default="", comment="why the operator set it aside"),
    Column(
        "edition",
        Integer,
        nullable=False,
        server_default="0",
        comment="counts the operator's changes: what was decided before one is not written",
    ),
    comment="How far a host is trusted: xwgrid.trust.Standing. A new host has no row.",
)

host_credits = Table(
    "credits",
    metadata,
    Column("host_id", ForeignKey("hosts.id"), primary_key=True, autoincrement=False),
    Column("application", String(200), primary_key=True),
    Column("seconds", Double, nullable=False, server_default="0", comment="device-seconds of an average host"),
    Column("results", Integer, nullable=False, server_default="0"),
    comment="What a host's validated results of one application were worth. A user's credit is that of its hosts.",
)

climate = Table(
    "climate",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False, comment="1: there is one row, or none"),
    Column("results", Double, nullable=False),
    Column("wrong", Double, nullable=False),
    Column("lies", Double, nullable=False),
    Column("liars", Double, nullable=False),
    CheckConstraint("id = 1", name="one"),
    comment="What the grid has met lately: xwgrid.trust.Climate.",
)

tolerances = Table(
    "tolerances",
    metadata,
    Column("application", String(200), primary_key=True),
    Column("class_a", String(200), primary_key=True, comment="the one of the two that sorts first, by code points"),
    Column("class_b", String(200), primary_key=True),
    Column("share", Double, nullable=False, comment="of all channels, those that may differ, 0 to 1"),
    Column("largest", Double, nullable=False, comment="difference of a channel, in steps of 255"),
    Column("block", Double, nullable=False, comment="difference of the means of blocks of 8 x 8 pixels, in steps"),
    Column("measured_at", Double, nullable=False),
    Column("samples", Integer, nullable=False, comment="pairs of pictures it was measured on"),
    Column("margin", Double, nullable=False, comment="factor on the largest distances that were seen"),
    Column("excepted", Text, nullable=False, server_default="[]", comment="JSON: kinds of frames it does not cover"),
    CheckConstraint("class_a <> class_b", name="two_classes"),
    comment="How far apart honest results of two classes may lie: xwgrid.tolerances.Tolerance. None: votes do not mix.",
)
