"""Multi-stage pipelines: stages that train or sample from what earlier ones made."""

from unipost.pipeline.run import run_pipeline as run_pipeline
from unipost.pipeline.settings import Pipeline as Pipeline
from unipost.pipeline.settings import Stage as Stage
from unipost.pipeline.settings import is_pipeline as is_pipeline
from unipost.pipeline.settings import load_pipeline as load_pipeline
from unipost.pipeline.summary import summary_text as summary_text
