"""A page of a step's completions: every token coloured by what the loss does to it.

settings  `Completions`: when pages are written
examine   what training says of the rows of a step: log-probs and coefficients
entries   one completion with its tokens, numbers and badges
page      `write_page`: one HTML file that needs no network; `write_index`
"""

from unipost.completions.entries import Entry as Entry
from unipost.completions.entries import entries_of as entries_of
from unipost.completions.examine import Examined as Examined
from unipost.completions.examine import examine as examine
from unipost.completions.page import write_index as write_index
from unipost.completions.page import write_page as write_page
from unipost.completions.settings import Completions as Completions
from unipost.completions.settings import write_step as write_step
