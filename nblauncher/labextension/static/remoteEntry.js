// The button "Log out" in Notebook and Lab, and its command for the File menu. Written by hand in the form that webpack
// gives a prebuilt extension (https://jupyterlab.readthedocs.io/en/stable/extension/extension_dev.html).
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

  const plugin = {
    id: 'nblauncher:log-out',
    description: 'Ends the session at the front page of the class.',
    autoStart: true,
    activate: async app => {
      const { Widget } = await load('@lumino/widgets');
      const base = app.serviceManager.serverSettings.baseUrl;
      const command = 'nblauncher:log-out';
      app.commands.addCommand(command, {
        label: 'Log out',
        caption: 'Save, and leave: nobody else on this computer can go on as you',
        execute: () => logOut(app, base)
      });
      const button = document.createElement('button');
      button.textContent = 'Log out';
      button.title = app.commands.caption(command);
      button.style.cssText =
        'height: 22px; padding: 0 10px; margin: 0 8px; cursor: pointer; background: transparent; border-radius: 3px;' +
        'border: 1px solid var(--jp-border-color1); color: var(--jp-ui-font-color1);' +
        'font: var(--jp-ui-font-size1)/1 var(--jp-ui-font-family)';
      button.addEventListener('click', () => void app.commands.execute(command));
      const widget = new Widget();
      widget.id = 'nblauncher-log-out';
      widget.node.style.cssText = 'display: flex; align-items: center';
      widget.node.append(button);
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
