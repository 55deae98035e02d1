"""Test-time compute: many responses to a question, and one answer chosen of them."""

from unipost.test_time.curves import Drawn as Drawn
from unipost.test_time.curves import Point as Point
from unipost.test_time.curves import curves as curves
from unipost.test_time.curves import expected_best as expected_best
from unipost.test_time.curves import expected_pass as expected_pass
from unipost.test_time.steps import STEP_RULES as STEP_RULES
from unipost.test_time.steps import step_probability as step_probability
from unipost.test_time.steps import step_scores as step_scores
from unipost.test_time.votes import best as best
from unipost.test_time.votes import coded as coded
from unipost.test_time.votes import majority as majority
from unipost.test_time.votes import weighted as weighted
