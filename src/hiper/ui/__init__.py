"""The web page: a layout, handlers that call the package, and a server for this computer. No model code."""
