"""How an app's processes run, and how they are asked whether they are well."""
