"""HiPer: one picture and one sentence in, a small file out, and any later sentence edits that picture.

    import hiper
    backbone = hiper.load_backbone("critters")
    subject = hiper.Subject.open("dog.png", caption="a standing dog")
    artifact = hiper.fit(backbone, subject)
    result = hiper.edit(backbone, artifact, "a sitting dog", seeds=[0, 1, 2, 3])

Names are imported on first use, so that `import hiper` takes no time.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
