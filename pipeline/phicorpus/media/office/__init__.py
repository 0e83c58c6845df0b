"""Files of office programs: their archives, their XML, their numbers."""
