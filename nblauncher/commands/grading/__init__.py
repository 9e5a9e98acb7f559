"""The commands of grading: `grade init`, `grade ASSIGNMENT`, `grade serve`, `feedback`, `grades`."""
