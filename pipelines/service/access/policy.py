"""What a subject may do and see: the roles file, the rights of a subject, and what is refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.followed_files import FollowedFiles
from pipelines.service.access.certificates import ClientCertificate
from pipelines.service.access.masks import Masks
from pipelines.service.access.roles import ROLES, Subjects, read_subjects
from pipelines.service.access.subject import Forbidden, Subject, Unidentified
from schemas.access import CLASSES, FEWEST_TASKS, HASHES, AccessClass, find_class
from transforms.core.events import FILES_NOT_USED


@dataclass(frozen=True)
class Rights:
    """What a subject may see. `level`: the most closed class of columns that it may see without a grant."""

    subject: Subject
    level: AccessClass
    masks: Masks

    def may_see(self, table: str, column: str) -> bool:
        """Whether it may see a column; of a hash, at least its HMAC."""
        needed = find_class(table, column)
        if needed == AccessClass.RESTRICTED:
            return table in self.subject.grants and self.level >= AccessClass.INTERNAL
        return needed <= self.level

    def is_masked(self, table: str, column: str) -> bool:
        """Whether it gets the HMAC of a column in place of it."""
        return column in HASHES and table not in self.subject.grants

    def split(self, table: str, columns: Sequence[str]) -> tuple[list[str], list[str]]:
        """The columns that it may see as they are stored, and those that are withheld."""
        allowed = [name for name in columns if self.may_see(table, name) and not self.is_masked(table, name)]
        return allowed, [name for name in columns if name not in allowed]

    def refuse_use(self, table: str, columns: Sequence[str]) -> None:
        """Check the columns that a filter, a sort or a selection names.

        Raises:
            Forbidden: one of them is withheld, or is only seen as an HMAC.
        """
        for name in columns:
            if self.split(table, [name])[1]:
                raise Forbidden(f"{self.subject.name} has no right to {name} of {table}")

    def refuse_table(self, table: str) -> None:
        """Check that it may see anything of a table.

        Raises:
            Forbidden: it may not; not even how many rows there are.
        """
        if not any(self.may_see(table, column) for column in CLASSES.get(table, ())):
            raise Forbidden(f"{self.subject.name} has no right to {table}")

    def limit_rows(self, table: str) -> str:
        """SQL that is true for the rows of a table that it may see; empty if that is all of them."""
        if table == "kpi_fleet" and self.level < AccessClass.INTERNAL:
            return f"task_count >= {FEWEST_TASKS}"
        return ""


class Policy:
    """The subjects of a file, read again when it changes. A new version that is broken is not used."""

    def __init__(self, path: Path, masks: Masks) -> None:
        self._masks = masks
        self._followed: FollowedFiles[Subjects] = FollowedFiles(
            [path], lambda: read_subjects(path), FILES_NOT_USED
        )

    @property
    def problem(self) -> str | None:
        """Why the newest version of the file is not used."""
        return self._followed.problem

    def load(self) -> None:
        """Read the file for the first time.

        Raises:
            OSError, ValueError: it cannot be used.
        """
        self._followed.current()

    def find_subject(self, certificate: ClientCertificate) -> Subject:
        """The subject of a certificate; without a role if the file does not have it.

        Raises:
            Unidentified: its names are those of several subjects.
        """
        known = self._followed.current()
        keys = dict.fromkeys((certificate.issuer, name) for name in certificate.names)
        found = {known[key] for key in keys if key in known}
        if len(found) > 1:
            raise Unidentified("the names of the certificate are those of several subjects")
        if not found:
            name = ", ".join(certificate.names)[:200]
            return Subject(name, "", frozenset(), certificate.until, certificate.fingerprint)
        (subject,) = found
        shown = (certificate.until, certificate.fingerprint)
        return Subject(subject.name, subject.role, subject.grants, *shown)

    def decide(self, subject: Subject, action: str) -> Rights:
        """The rights of a subject in an action.

        Raises:
            Forbidden: it may not do this at all.
        """
        return decide(subject, action, self._masks)


def decide(subject: Subject, action: str, masks: Masks) -> Rights:
    """The rights of a subject in an action, by its role.

    Raises:
        Forbidden: it may not do this at all.
    """
    role = ROLES.get(subject.role)
    if role is None:
        raise Forbidden(f"{subject.name} has no role")
    if action not in role.actions:
        raise Forbidden(f"{subject.role} has no right to {action}")
    return Rights(subject, role.level, masks)
