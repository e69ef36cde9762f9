"""What can be searched: YAML files and the schema that reads them."""
