"""The web app: pages, endpoints and the command line over one `Service`."""
