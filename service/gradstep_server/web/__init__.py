"""The only place that knows HTTP: routes, bodies, problems, pages."""
