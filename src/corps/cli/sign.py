"""sign: vouch for a version of an artifact with a key of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from corps.cli import render
from corps.cli.operator import Operator
from corps.cli.options import ARTIFACT, verb
from corps.clock import Clock
from corps.errors import Invalid, Malformed, NotFound
from corps.model.artifact import split_artifact, split_tag
from corps.model.command import Sign, Signed
from corps.model.signature import Vouched
from corps.model.view import ArtifactView

DAY_S = 86_400.0
DAYS_MAX = 36_500


@verb("sign")
@click.argument("artifact", type=ARTIFACT, metavar="[NAME[@DIGEST]]", required=False)
@click.option("--key", type=click.Path(path_type=Path), metavar="FILE", help="The private key.")
@click.option(
    "--expires-days", type=click.IntRange(1, DAYS_MAX), metavar="N", help="Else it never does."
)
@click.option(
    "--new-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Make a key there, and print the public one, for signer_keys in a policy.",
)
@click.pass_obj
def sign(
    operator: Operator,
    artifact: str | None,
    key: Path | None,
    expires_days: int | None,
    new_key: Path | None,
) -> None:
    """Sign a version of an artifact, for workers whose policy wants that.

    A worker does not go back to a version that was signed before the newest it has seen.
    """
    from corps.signing import make_key, sign  # noqa: PLC0415  # 40 ms that only signing costs

    if new_key is not None:
        if artifact is not None or key is not None:
            raise Malformed("give either --new-key, or an artifact with --key")
        render.write_lines([make_key(new_key)])
        return
    if artifact is None or key is None:
        raise Malformed("give an artifact and --key, or --new-key to make one")
    row = _version(operator.client.artifacts(), artifact)
    now = Clock()()
    vouched = Vouched(
        name=row.name,
        digest=row.digest,
        counter=int(now * 1_000),
        expires_at=None if expires_days is None else now + expires_days * DAY_S,
    )
    operator.client.submit(Sign(signature=sign(key, vouched)), Signed)


def _version(rows: list[ArtifactView], text: str) -> ArtifactView:
    untagged, tag = split_tag(text)
    name, digest = split_artifact(untagged)
    found = [row for row in rows if row.name == name and row.digest.startswith(digest or "")]
    found = [row for row in found if tag is None or tag in row.tags]
    if not found:
        raise NotFound(f"no artifact {text!r}: see 'corps artifacts'", artifact=text)
    if len(found) > 1:
        versions = ", ".join(f"{row.name}@{row.digest[:12]}" for row in found)
        raise Invalid(f"{text!r} means {len(found)} versions: sign one of {versions}", field="name")
    return found[0]
