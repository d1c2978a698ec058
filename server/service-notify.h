/* Telling the service manager how the process stands: systemd's notification protocol, sd_notify(3). */
#ifndef OTTER_SERVER_SERVICE_NOTIFY_H
#define OTTER_SERVER_SERVICE_NOTIFY_H

/* Sends assignments such as "READY=1" or "STOPPING=1", one a line, to the socket that NOTIFY_SOCKET names: a path, or a name in the
 * abstract space after '@'. Does nothing where the variable is not set, as under a shell. What fails is not told: no service manager
 * listens then, and there is nobody to tell. From any thread. */
void ot_service_notify(const char *state);

#endif
