"""The web server: sites, files, logs, and the host of ISAPI extensions and filters."""
