"""Which text rows a picture looks at while it is drawn, and where: capture, figures, and a page."""

from hiper.attention.page import fragment as fragment
from hiper.attention.page import page as page
from hiper.attention.page import row_maps as row_maps
from hiper.attention.study import Study as Study
from hiper.attention.watching import study_drawing as study_drawing
from hiper.attention.watching import study_picture as study_picture
