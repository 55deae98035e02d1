"""What a run did to a model, measured: transfer of gains to other tasks."""

from unipost.analysis.transfer import Transfer as Transfer
from unipost.analysis.transfer import domain_index as domain_index
from unipost.analysis.transfer import pooled_spread as pooled_spread
from unipost.analysis.transfer import relative_gain as relative_gain
from unipost.analysis.transfer import relative_transfer as relative_transfer
from unipost.analysis.transfer import transfer_index as transfer_index
from unipost.analysis.transfer import transfer_interval as transfer_interval
