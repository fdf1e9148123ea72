from .serving import Address as Address
from .serving import served as served
from .studio import Similarity as Similarity
