"""Bundle files: writes and signs bundles and adds document collections to them."""
