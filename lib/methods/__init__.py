"""The methods, by the name that a cell gives them. A method is built from (cfg, syn, seed) and has `step` and a state."""

from .datm import DATM
from .dc import DC
from .dd import DD
from .dm import DM
from .dsa import DSA
from .edf import EDF
from .frepo import FRePo
from .isa import ISA
from .mtt import MTT
from .rat import RaT
from .sldd import SLDD

METHODS = {"dd": DD, "sldd": SLDD, "rat": RaT, "frepo": FRePo, "isa": ISA, "dc": DC, "dsa": DSA, "dm": DM, "mtt": MTT, "datm": DATM, "edf": EDF}
