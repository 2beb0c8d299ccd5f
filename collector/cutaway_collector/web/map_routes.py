"""The routes of the latent map: the page and its JSON twin, which with `slim` has only what the page's script needs.

    GET /map, /map.json    parameters: see pages.latent_map; plane=new: what is there is drawn in a plane of its own, from then on

Not the map: `pages.latent_map` makes it, out of what `map_vectors` knows of texts.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, Response, g, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from cutaway_collector.web import urls
from cutaway_collector.web.map_vectors import Vectors
from cutaway_collector.web.pages import latent_map, map_picture
from cutaway_collector.web.site import Site


def routes(app: Flask, site: Site, vectors: Vectors, render: Callable[..., Response], answer: Callable[..., Response]) -> None:
    """Adds them."""

    def made() -> tuple[latent_map.LatentMap, latent_map.Asked]:
        wanted = latent_map.asked(site, request.args)
        return latent_map.make(site, vectors, g.caller.tenant, wanted), wanted

    @app.get("/map")
    def map_page() -> AnyResponse:
        if request.args.get("plane") == "new":
            wanted = latent_map.asked(site, request.args)
            for name in latent_map.plane_names(g.caller.tenant, wanted):
                vectors.forget_plane(name)
            return redirect(urls.latent_map(wanted.kept), 303)
        found, wanted = made()
        return render("map.html", map_picture.page(found, wanted))

    @app.get("/map.json")
    def map_twin() -> Response:
        found, wanted = made()
        return answer(map_picture.slim(found) if request.args.get("slim") else latent_map.twin(found, wanted))
