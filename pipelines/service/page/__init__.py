"""The page of the service: HTML, styles and ES modules, without a build step."""
