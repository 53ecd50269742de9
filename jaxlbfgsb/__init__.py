"""L-BFGS-B for JAX: bound-constrained minimisation, compiled and batched."""

from jaxlbfgsb import plot as plot  # jaxlbfgsb.plot.convergence(...)
from jaxlbfgsb.asktell import AskTell
from jaxlbfgsb.batch import minimize_batch
from jaxlbfgsb.checks import GradientCheck, check_grad
from jaxlbfgsb.inverse import InverseHessian
from jaxlbfgsb.jaxopt_api import LBFGSB
from jaxlbfgsb.jaxopt_steps import LBFGSBState
from jaxlbfgsb.minimize import minimize
from jaxlbfgsb.multistart import Minimum, MultistartResult, multistart
from jaxlbfgsb.optax_api import LBFGSBOptaxState, lbfgsb
from jaxlbfgsb.recording import Trace
from jaxlbfgsb.result import OptimizeResult
from jaxlbfgsb.scipy_api import fmin_l_bfgs_b, scipy_method
from jaxlbfgsb.status import Reason
from jaxlbfgsb.tracing import clear_cache

__version__ = "0.1.0"

__all__ = [
    "LBFGSB",
    "AskTell",
    "GradientCheck",
    "InverseHessian",
    "LBFGSBOptaxState",
    "LBFGSBState",
    "Minimum",
    "MultistartResult",
    "OptimizeResult",
    "Reason",
    "Trace",
    "check_grad",
    "clear_cache",
    "fmin_l_bfgs_b",
    "lbfgsb",
    "minimize",
    "minimize_batch",
    "multistart",
    "scipy_method",
]
