"""Images as networks: thousands of SIRENs, each fitted to one image. `load` reads them, `python -m` this makes them."""

from benchmarks.inr_data.dataset import InrSet, load
from benchmarks.inr_data.plan import SIZES
from benchmarks.inr_data.published import load_published
from benchmarks.inr_data.siren import Params, Siren, coordinates, initial, render

__all__ = ["SIZES", "InrSet", "Params", "Siren", "coordinates", "initial", "load", "load_published", "render"]
