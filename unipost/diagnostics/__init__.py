"""Numbers of a step that say whether it was sound, next to its loss.

    streams   `watched` picks what is read, `tally` counts inside the loss, `finished`
              makes metrics of it: ratios, distances, effective sample sizes, entropy
    signals   `signal_metrics`: the advantages and the groups they come from
    tallies   `merge` over microbatches, `combine` over the updates of a step

All of it is computed on the device, inside the compiled update, from what the update
has at hand; only the entropy takes a further reading of the logits.
"""

from unipost.diagnostics.signals import signal_metrics as signal_metrics
from unipost.diagnostics.streams import extras as extras
from unipost.diagnostics.streams import finished as finished
from unipost.diagnostics.streams import tally as tally
from unipost.diagnostics.streams import watched as watched
from unipost.diagnostics.tallies import combine as combine
from unipost.diagnostics.tallies import merge as merge
from unipost.diagnostics.tallies import nothing as nothing
