from .job_files import read_jobs as read_jobs
from .jobs import Defaults as Defaults
from .runner import BatchReport as BatchReport
from .runner import BatchSettings as BatchSettings
from .runner import run as run
