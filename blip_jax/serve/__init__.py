"""A model behind HTTP: `app` has the routes, `engine` the batches, `page/` a page to try it."""
