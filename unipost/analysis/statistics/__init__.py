"""Intervals and tests of paired runs: bootstrap, Wilson, TOST, Holm, matched accuracy.

The units are base model, seed of a run, item, sample. Arms share bases, seeds and
items, so that everything is paired: resampled together in an interval, subtracted in a
test.
"""

from unipost.analysis.statistics.bootstrap import Interval as Interval
from unipost.analysis.statistics.bootstrap import Verdict as Verdict
from unipost.analysis.statistics.bootstrap import Weights as Weights
from unipost.analysis.statistics.bootstrap import bootstrap_mean as bootstrap_mean
from unipost.analysis.statistics.bootstrap import paired_difference as paired_difference
from unipost.analysis.statistics.bootstrap import percentiles as percentiles
from unipost.analysis.statistics.bootstrap import verdict as verdict
from unipost.analysis.statistics.bootstrap import wilson as wilson
from unipost.analysis.statistics.matched import Matching as Matching
from unipost.analysis.statistics.matched import at_accuracy as at_accuracy
from unipost.analysis.statistics.matched import matched as matched
from unipost.analysis.statistics.relations import line_r2 as line_r2
from unipost.analysis.statistics.relations import quadratic_r2 as quadratic_r2
from unipost.analysis.statistics.relations import relation as relation
from unipost.analysis.statistics.relations import slope as slope
from unipost.analysis.statistics.relations import spearman as spearman
from unipost.analysis.statistics.tests import Equivalence as Equivalence
from unipost.analysis.statistics.tests import equivalence as equivalence
from unipost.analysis.statistics.tests import holm as holm
from unipost.analysis.statistics.tests import mcnemar as mcnemar
from unipost.analysis.statistics.tests import paired_t as paired_t
from unipost.analysis.statistics.tests import sign_flip as sign_flip
from unipost.analysis.statistics.tests import wilcoxon as wilcoxon
