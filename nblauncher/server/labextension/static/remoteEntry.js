// In Notebook and Lab: whose notebooks these are, the button "Log out", and its command for the File menu. Written by
// hand in the form that webpack gives a prebuilt extension
// (https://jupyterlab.readthedocs.io/en/stable/extension/extension_dev.html).
(() => {
  let shared;

  const load = async name => {
    const versions = shared[name];
    const factory = await Object.values(versions)[0].get();
    return factory();
  };

  const logOut = async (app, base) => {
    if (app.commands.hasCommand('docmanager:save-all')) {
      await app.commands.execute('docmanager:save-all').catch(error => console.error(error));
    }
    const form = document.createElement('form');
    form.method = 'post';
    form.action = `${base}logout`;
    const field = document.createElement('input');
    field.type = 'hidden';
    field.name = '_xsrf';
    field.value = (document.cookie.match(/\b_xsrf=([^;]*)/) || ['', ''])[1];
    form.append(field);
    document.body.append(form);
    form.submit();
  };

  // The server says who it is in the page's config (nblauncher.server.app). All of it is shown as text.
  const who = option => {
    const node = document.createElement('div');
    node.style.cssText =
      'max-width: 40vw; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; margin: 0 4px;' +
      'color: var(--jp-ui-font-color1); font: var(--jp-ui-font-size1)/1 var(--jp-ui-font-family); line-height: 1.4';
    const [student, course] = [option('nblauncherStudent'), option('nblauncherCourse')].map(text => {
      const part = document.createElement('bdi');
      part.textContent = text;
      return part;
    });
    student.id = 'nblauncher-student';
    student.style.fontWeight = '600';
    course.id = 'nblauncher-course';
    node.title = `${student.textContent} · ${course.textContent}`;
    node.append(student, course.textContent ? ' · ' : '', course);
    return node;
  };

  const plugin = {
    id: 'nblauncher:log-out',
    description: 'Ends the session at the front page of the class.',
    autoStart: true,
    activate: async app => {
      const { Widget } = await load('@lumino/widgets');
      const { PageConfig } = await load('@jupyterlab/coreutils');
      const option = name => PageConfig.getOption(name);
      const base = app.serviceManager.serverSettings.baseUrl;
      const command = 'nblauncher:log-out';
      app.commands.addCommand(command, {
        label: option('nblauncherLogOut') || 'Log out',
        caption: option('nblauncherLogOutHint'),
        execute: () => logOut(app, base)
      });
      const button = document.createElement('button');
      button.textContent = app.commands.label(command);
      button.title = app.commands.caption(command);
      button.style.cssText =
        'height: 22px; padding: 0 10px; margin: 0 8px; cursor: pointer; background: transparent; border-radius: 3px;' +
        'flex: none; white-space: nowrap;' +
        'border: 1px solid var(--jp-border-color1); color: var(--jp-ui-font-color1);' +
        'font: var(--jp-ui-font-size1)/1 var(--jp-ui-font-family)';
      button.addEventListener('click', () => void app.commands.execute(command));
      const widget = new Widget();
      widget.id = 'nblauncher-log-out';
      widget.node.style.cssText = 'display: flex; align-items: center';
      widget.node.append(who(option), button);
      app.shell.add(widget, 'top', { rank: 10000 });
    }
  };

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB.nblauncher = {
    init: scope => {
      shared = scope;
    },
    get: async () => () => ({ __esModule: true, default: plugin })
  };
})();
