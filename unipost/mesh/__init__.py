"""Many devices as one: a named mesh, and which part of which array lies where."""

from unipost.mesh.activations import BATCH as BATCH
from unipost.mesh.activations import as_pieces as as_pieces
from unipost.mesh.activations import constrain as constrain
from unipost.mesh.activations import free_axes as free_axes
from unipost.mesh.activations import over as over
from unipost.mesh.activations import platform as platform
from unipost.mesh.activations import shards as shards
from unipost.mesh.activations import spec_over as spec_over
from unipost.mesh.layout import Layout as Layout
from unipost.mesh.layout import within as within
from unipost.mesh.rules import RULES as RULES
from unipost.mesh.settings import AXES as AXES
from unipost.mesh.settings import Mesh as Mesh
from unipost.mesh.stored import Stored as Stored
from unipost.mesh.stored import bare as bare
from unipost.mesh.stored import gathered as gathered
from unipost.mesh.stored import specs_by_hand as specs_by_hand
from unipost.mesh.stored import whole as whole
from unipost.mesh.stored import whole_by_hand as whole_by_hand
