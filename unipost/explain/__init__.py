"""What an objective says: formulas, coefficient, status, equal presets, why it is 0.

Everything is read off the parts of the object, so that it holds for a preset, a preset
with swapped parts and an objective of one's own alike.

    >>> print(explain(unipost.presets.grpo()))
"""

from unipost.explain.coefficient import gradient_coefficient as gradient_coefficient
from unipost.explain.divergences import phi_formula as phi_formula
from unipost.explain.divergences import slope_formula as slope_formula
from unipost.explain.equality import Equality as Equality
from unipost.explain.equality import equals as equals
from unipost.explain.fit_status import Status as Status
from unipost.explain.page import explain as explain
from unipost.explain.page import latex as latex
from unipost.explain.plot import curves as curves
from unipost.explain.plot import plot_coefficient as plot_coefficient
from unipost.explain.status import status as status
from unipost.explain.zero import why_zero as why_zero
