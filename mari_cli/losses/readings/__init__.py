"""The readings: quantities of the model that a loss may use. Each file has one, or a few related ones."""

from mari_cli.losses.readings.hidden_states import HiddenStates
from mari_cli.losses.readings.log_odds import LogOdds, UniformTarget
from mari_cli.losses.readings.log_probability import LogP
from mari_cli.losses.readings.logit_margin import LogitMargin
from mari_cli.losses.readings.pooled_information import PooledInformation
from mari_cli.losses.readings.reference import KL, Anchor, JensenShannon, ReverseKL
from mari_cli.losses.readings.support_information import SupportInformation
from mari_cli.losses.readings.target import TargetCrossEntropy
