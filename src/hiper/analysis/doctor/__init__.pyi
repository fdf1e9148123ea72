from .base import Finding as Finding
from .examine import examine as examine
from .probe import deepest as deepest
from .probe import in_one_line as in_one_line
