"""What people see: tables, progress. Floor 7."""
