"""A run of one's own, from a few choices or from a spec file. Pure but for reading the file."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from protocol.control import HostSpec, TaskSource
from protocol.errors import TalkootError
from protocol.manifest import Admission, MethodSpec, RoundSpec, TrustSpec

MAX_SPEC_BYTES = 256 << 10
KINDS = {
    "text": "text: a small language model",
    "image": "image: handwritten digits",
    "finetune": "finetune: a sentence encoder",
}


class SpecError(TalkootError):
    """It can't be told what run to start."""

    code = "bad_spec"


@dataclass(frozen=True, slots=True)
class RunDraft:
    """What the wizard asks for."""

    name: str
    about: str
    licence: str
    kind: str
    data: str
    admission: Admission = "invite"

    def spec(self) -> HostSpec:
        """Return the run with the rules for a small run among friends (talkoot host init).

        Raises:
            SpecError: no name, too long a text, or data that isn't there.
        """
        if not 1 <= len(self.name) <= 80:
            raise SpecError("the run needs a name of 1 to 80 characters", hint="Give it one.")
        if len(self.about) > 2000 or len(self.licence) > 200:
            raise SpecError("the description or the licence is too long", hint="Shorten it.")
        data = Path(self.data).expanduser().absolute() if self.data else None
        if data is not None and not data.exists():
            raise SpecError(f"there is no {data}", hint="Choose a file or folder that is there.")
        spsa = self.kind == "finetune"
        return HostSpec(
            name=self.name,
            description=self.about,
            licence=self.licence,
            task=TaskSource(kind=self.kind, data=str(data) if data else None),
            method=MethodSpec(kind="spsa" if spsa else "local", settings={}),
            round=RoundSpec(
                local_steps=64 if spsa else 50, max_seconds=600 if spsa else 120, min_peers=1
            ),
            trust=TrustSpec(
                rule="clip", probation_rounds=3, probation_passes=0, newcomer_share=1, work_bits=0
            ),
            admission=self.admission,
        )


def read_spec(path: Path) -> HostSpec:
    """Return the run that a file states, its data path made absolute.

    Raises:
        SpecError: it can't be read, or has a mistake.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_SPEC_BYTES).decode()
        spec = msgspec.convert(tomllib.loads(text), HostSpec)
        if spec.task.data is None:
            return spec
        data = (path.absolute().parent / Path(spec.task.data).expanduser()).resolve()
    except OSError as error:
        raise SpecError(
            f"can't read {path}: {error.strerror}", hint="Choose a file that you can read."
        ) from error
    except (msgspec.ValidationError, ValueError, RuntimeError) as error:
        # beside mistakes: too large a number, too deep a table, a path that can't be
        hint = "Compare it with what talkoot host init writes."
        raise SpecError(f"{path.name} has a mistake: {error}", hint=hint) from error
    task = msgspec.structs.replace(spec.task, data=str(data))
    return msgspec.structs.replace(spec, task=task)
