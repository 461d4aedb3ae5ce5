"""Which life of this node it is: what was signed in an earlier one may be forgotten.

Where one thing may be signed once, the life is signed too, so that no restart makes an honest peer
a liar. The number is on disk before anything is signed with it.
"""

import logging
from pathlib import Path
from secrets import randbelow

from node.store.storage import Disk, set_aside, telling

log = logging.getLogger(__name__)

MAX_LIFE = 1 << 32
_DRAWN = 1 << 24


def next_life(path: Path, disk: Disk) -> int:
    """Return the number of a new life, and keep it in the file `path`. Blocks on the disk.

    Where the file is damaged, the number is drawn from so many that none is met twice.

    Raises:
        DiskFullError, WriteError: it can't be made durable, so nothing may be signed.
    """
    life = _last(path) + 1
    disk.write(path, [str(life).encode()])
    return life


def _last(path: Path) -> int:
    with telling(path.parent, 0):
        try:
            found = int(path.read_bytes())
        except FileNotFoundError:
            return 0
        except ValueError:
            log.warning("%s is damaged; set aside", path)
            set_aside(path)
            return randbelow(_DRAWN)
    return found if 0 <= found < MAX_LIFE - 1 else randbelow(_DRAWN)
