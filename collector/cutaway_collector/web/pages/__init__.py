"""One module a page, one function a page, one documented dataclass that holds all the page's template may use.

Not the routes and not the markup: a page function takes the site and the URL's parameters and returns data.
"""
