"""The latent map's arithmetic: vectors to places on a plane, places to clusters, a polygon to the places inside it.

Not embeddings, not a query and not a picture: numbers in, numbers out, the same ones for the same input.
"""

from __future__ import annotations

from cutaway_collector.latent.frame import Frame, fit
from cutaway_collector.latent.place import HEIGHT, WIDTH, Layout, clusters, features, inside, pca, place, umap

__all__ = ["HEIGHT", "WIDTH", "Frame", "Layout", "clusters", "features", "fit", "inside", "pca", "place", "umap"]
