from .base import Engine as Engine
from .base import RemoteError as RemoteError
from .base import Task as Task
from .base import TaskResult as TaskResult
from .choosing import EngineSettings as EngineSettings
from .choosing import open_engine as open_engine
from .reachable import check_reachable as check_reachable
from .worker import can_limit_memory as can_limit_memory
