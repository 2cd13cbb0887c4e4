/* Tells who it runs as: installed setuid, which no_new_privs makes void. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	printf("Effective uid: %d\n", geteuid());
	return 0;
}
