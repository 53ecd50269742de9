"""L-BFGS-B for JAX: bound-constrained minimisation, compiled and batched."""

from jaxlbfgsb import plot as plot  # jaxlbfgsb.plot.convergence(...)
from jaxlbfgsb.batch import minimize_batch
from jaxlbfgsb.faces.asktell import AskTell
from jaxlbfgsb.faces.checks import GradientCheck, check_grad
from jaxlbfgsb.faces.jaxopt_api import LBFGSB
from jaxlbfgsb.faces.jaxopt_steps import LBFGSBState
from jaxlbfgsb.faces.optax_api import LBFGSBOptaxState, lbfgsb
from jaxlbfgsb.faces.scipy_api import fmin_l_bfgs_b, scipy_method
from jaxlbfgsb.method.inverse import InverseHessian
from jaxlbfgsb.minimize import minimize
from jaxlbfgsb.multistart import Minimum, MultistartResult, multistart
from jaxlbfgsb.program.tracing import clear_cache
from jaxlbfgsb.result import OptimizeResult
from jaxlbfgsb.sight.recording import Trace
from jaxlbfgsb.status import Reason

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
