"""HTTP over both services: the routes of their annotations, live events, and the API's description."""
