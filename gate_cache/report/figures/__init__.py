"""Pictures: colours, marks, pages of maps, matches and masks."""
