/* Does nothing, as small as a command can be: what a task costs when its work costs nothing. */
void _start(void) {}
