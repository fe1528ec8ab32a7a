"""Read a language model's confidence layer by layer, and ask whether it is right.

>>> import calib
>>> model = calib.open_model("almanac")
>>> reading = calib.read_layers(model, calib.load_questions("almanac", limit=100))
>>> calib.evolve(reading).decision <= model.n_layers
True

The rooms, each of which imports only from those before it:

``metrics``        arrays to numbers
``questions``      what is asked
``models``         who answers
``reading``        the pass: questions and a model become a Reading
``recalibration``  logits to better probabilities
``analysis``       what a reading says
``steering``       pushing
``mechanisms``     taking apart
``sampling``       many answers
``losses``         training for it
``figures``        drawing
``report``         the pages
``laboratory``     the models that come with it, and how they were made
``notebook``       glue for chapters

To read the library in an afternoon: ``metrics`` (inputs, bins, binned, scores, intervals,
resampling), ``questions`` (load, faults, prompts), ``models`` (model, architectures, logit_lens,
open, proof), ``reading`` (reading, layers, _run, _batches, _forward), ``analysis.phases``.
"""

import lazy_loader

__version__ = "0.6.0"

# What stands in the stub beside this file is loaded when first used: importing calib stays light.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
