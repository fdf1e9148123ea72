from .service import Similarity as Similarity
from .serving import Address as Address
from .serving import served as served
