"""Studies of the method and measurements for the documentation. They are not part of the package."""
