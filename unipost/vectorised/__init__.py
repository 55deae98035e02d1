"""Several small runs trained together: seeds and numeric settings, one program.

A grid over a learning rate, beta, a clip bound or the seed repeats one computation
with other numbers. `split` finds the experiments that differ in nothing else,
`train_together` trains such a group: parameters stacked on a leading axis [R, ...],
one program over that axis (`unipost.vectorised.steps`), and for every run the folder
that `unipost.train.train` writes.

    for group in split(experiments):
        train_together([experiments[i] for i in group], [folders[i] for i in group])
"""

from unipost.vectorised.groups import split as split
from unipost.vectorised.groups import why_not as why_not
from unipost.vectorised.together import Failed as Failed
from unipost.vectorised.together import train_together as train_together
